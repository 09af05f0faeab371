"""The offline DB: a Tiled catalog of all runs, their column files, and the ingestion."""

from p06bs.server.archive.adapter import ArchiveAdapter
from p06bs.server.archive.archived import Archive, StoredRun

__all__ = ["Archive", "ArchiveAdapter", "StoredRun"]
