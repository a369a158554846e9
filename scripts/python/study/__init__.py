"""Studies: members × seeds of runs, their evaluation, one table and one page (docs/studies.md)."""
