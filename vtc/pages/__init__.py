"""Pictures and HTML pages of reports."""
