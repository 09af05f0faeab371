"""Who may see a run: whoever may read its beamtime folder."""

from p06bs.server.access.policy import Everybody, FolderAccess, Root, Viewer, Visible

__all__ = ["Everybody", "FolderAccess", "Root", "Viewer", "Visible"]
