"""Virtual machines: the same image as a disk, booted by QEMU. README.md draws the room."""
