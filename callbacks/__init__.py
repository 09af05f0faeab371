"""The beamline's callbacks; import them as ``p06bs.callbacks``."""

if __name__ != "p06bs.callbacks":
    raise ImportError(
        "import p06bs.callbacks, not callbacks: the folder is reached through the package p06bs, "
        "and importing it twice would make every class in it exist twice"
    )
