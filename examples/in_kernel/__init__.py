"""A guest's writes, served in the kernel by verified eBPF. README.md says what it does and prints."""
