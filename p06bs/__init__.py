"""p06bs: online analysis for Bluesky."""
