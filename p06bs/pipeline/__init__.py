"""The online machine: master, leases, workers, sorter, engine and the pipelines they form."""
