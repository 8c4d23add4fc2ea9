"""Models of many classes in small: which modules are found, and what works with them."""
