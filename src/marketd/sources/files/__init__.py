"""Files of bars, in whatever shape they come: CSV, JSON lines, Parquet, Arrow, DBN.

`understand` finds out how a file is to be read, or asks; `read` gives its bars. Pure apart from opening the file.
"""

from marketd.sources.files.bars import FILE_REASONS, FileBatch, read
from marketd.sources.files.options import FILE_COLUMNS, FileOptions
from marketd.sources.files.plan import FilePlan, understand
from marketd.sources.files.tables import Refused

__all__ = ["FILE_COLUMNS", "FILE_REASONS", "FileBatch", "FileOptions", "FilePlan", "Refused", "read", "understand"]
