"""Stand-ins and hooks for the interfaces of other libraries, one module a library."""
