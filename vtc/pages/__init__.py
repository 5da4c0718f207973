"""Pictures and pages that show what a call did."""
