"""The commands of ``python -m resilient``, one file each; they stand above all the rest."""
