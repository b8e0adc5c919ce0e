"""The report as a page: one file a language, in which every figure names its source."""
