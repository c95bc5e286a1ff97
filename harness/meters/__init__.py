"""Meters read counters and do no arithmetic beyond adding up; one concern each.

```
instance   all of them, for one instance, in their order
cpu        user and system time            memory   PSS, USS, cgroup, MemAvailable
cache      the image in the page cache     disk     allocated, apparent, shared by reflink
leaks      what is still there at the end  readings a value, or why there is none
```
"""
