"""Tables from the published layouts of other data sets: a small module for each, all behind `registry.CONVERTERS`."""
