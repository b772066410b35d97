"""The public protocol as values: messages, their JSON, frames, close codes. No sockets. See ``docs/protocol.md``."""
