"""Plain values: names, numbers and times, which know of nothing else in the package."""
