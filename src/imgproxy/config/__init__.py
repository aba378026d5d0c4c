"""The configuration: sections of settings, read from a TOML file and the environment."""
