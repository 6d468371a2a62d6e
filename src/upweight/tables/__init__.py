"""A user's file: columns, a sensible model, the rows asked about."""
