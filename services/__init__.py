"""The beamline's services; import them as ``p06bs.services``."""

if __name__ != "p06bs.services":
    raise ImportError(
        "import p06bs.services, not services: the folder is reached through the package p06bs, "
        "and importing it twice would make every class in it exist twice"
    )
