"""REST and WebSocket doors. They translate; they decide nothing about data."""
