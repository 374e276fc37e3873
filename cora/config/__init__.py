"""Configuration: typed schemas (`schema`, `baseline`) and how YAML files become them (`manager`)."""
