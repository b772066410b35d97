"""Small integers for symbols, so that everything behind the door works on columns."""

from __future__ import annotations

import difflib

import numpy as np
import numpy.typing as npt

__all__ = ["SymbolTable"]


_TRANSLATIONS_KEPT = 32
"""One a source that reuses its tuple; those of sources that never do come and go."""
_NAME_LONGEST = 100
"""Longer names resemble no symbol, and comparing them takes long."""


class SymbolTable:
    """Gives each symbol a number once, from 0 upwards, and never takes it back."""

    def __init__(self) -> None:
        self._id_by_name: dict[str, int] = {}
        self.names: list[str] = []
        self._translations: dict[int, tuple[tuple[str, ...], npt.NDArray[np.intp]]] = {}
        """By identity of the tuple, which is held here: while it is, no other has its identity."""

    def __len__(self) -> int:
        return len(self.names)

    def get(self, name: str) -> int | None:
        """The number of a known symbol."""
        return self._id_by_name.get(name)

    def add(self, name: str) -> int:
        """The number of a symbol, given now if it had none."""
        number = self._id_by_name.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def translate(self, symbols: tuple[str, ...], index: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """Numbers of the rows of a batch. Cheap while sources hand over the same tuple objects."""
        known = self._translations.get(id(symbols))
        if known is None:
            if len(self._translations) >= _TRANSLATIONS_KEPT:
                self._translations.clear()
            known = (symbols, np.fromiter((self.add(s) for s in symbols), np.intp, len(symbols)))
            self._translations[id(symbols)] = known
        return known[1][index]

    def near(self, name: str, count: int = 3) -> list[str]:
        """Known symbols that look like `name`, best first."""
        if len(name) > _NAME_LONGEST:
            return []
        by_upper = {known.upper(): known for known in self.names}
        wanted = name.upper()
        prefixed = [known for upper, known in by_upper.items() if wanted and upper.startswith(wanted)]
        similar = [by_upper[upper] for upper in difflib.get_close_matches(wanted, by_upper, count, 0.6)]
        return list(dict.fromkeys([*similar, *sorted(prefixed, key=len)]))[:count]
