"""What a guest is made of: kernel, modules, initramfs, init, disk."""
