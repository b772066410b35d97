"""Recorded ticks and bars as a source, and the recorder that makes such files. See README.md."""

from marketd.sources.replay.config import ReplayConfig, ReplayFile
from marketd.sources.replay.feed import ReplaySource
from marketd.sources.replay.provider import replay_provider
from marketd.sources.replay.record import Recorder
from marketd.sources.replay.recording import Decoder

__all__ = ["Decoder", "Recorder", "ReplayConfig", "ReplayFile", "ReplaySource", "replay_provider"]
