"""What a study file may hold, section by section, and how that is written down for editors and people."""
