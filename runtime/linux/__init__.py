"""The kernel, as thin functions: numbers, system calls, namespaces, sockets. No policy."""
