"""The beamline's plans; import them as ``p06bs.plans``."""

if __name__ != "p06bs.plans":
    raise ImportError(
        "import p06bs.plans, not plans: the folder is reached through the package p06bs, "
        "and importing it twice would make every class in it exist twice"
    )
