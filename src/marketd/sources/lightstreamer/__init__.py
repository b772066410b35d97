"""TLCP, the text protocol of Lightstreamer servers: an own client, for the providers that stream by it.

`protocol` is the wire as values (pure), `session` what one session knows (pure), `client` the connections, `transport`
WebSocket and HTTP. It is a library and no provider: it knows nothing of prices. See the README beside this file.
"""

from __future__ import annotations

from marketd.sources.lightstreamer.config import LightstreamerConfig

__all__ = ["LightstreamerConfig"]
