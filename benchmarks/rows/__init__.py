"""The rows of the tables, in order, and the bars that are to be met."""
