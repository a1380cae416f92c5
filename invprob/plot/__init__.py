"""Pictures of results and of calibrations."""
