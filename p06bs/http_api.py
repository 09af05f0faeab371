"""Names that the server and its clients share."""

RUNS = "/api/p06bs/v1/runs"
"""Route below which derived runs are stored: PUT RUNS/UID."""

SINK = "/api/p06bs/v1/sink"
"""Route of what is held in memory, and of pins below it."""

SERVICES = "/api/v1/services"
"""Route of who is there, and of the metrics of all below it."""

KEY_VARIABLE = "P06BS_API_KEY"
"""Environment variable with the API key: of a laptop's server, and of who asks one."""
