"""Derived series, computed on read from what is stored raw."""
