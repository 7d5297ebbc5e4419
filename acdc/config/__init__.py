"""What a run is: its validated configuration and recipe, and YAML."""
