"""Asking a running server: where it is, and what it says when it cannot answer."""

from __future__ import annotations

import json

import click

__all__ = ["NoAnswer", "error_words", "server_url"]


class NoAnswer(click.ClickException):
    """Nobody could be asked, or the answer is an error. Not 1, by which commands say what they found."""

    exit_code = 2


def server_url(text: str) -> str:
    """Without a slash at the end. Raises BadParameter for another scheme than HTTP."""
    if not text.startswith(("http://", "https://")):
        raise click.BadParameter(f"{text!r} does not begin with http:// or https://", param_hint="--server")
    return text.rstrip("/")


def error_words(body: bytes) -> str:
    """What the server says went wrong."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
