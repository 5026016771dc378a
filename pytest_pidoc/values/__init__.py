"""Plain values such as names, numbers and times. These modules import nothing else of the package but the errors."""
