"""Claims of the family `retain`."""
