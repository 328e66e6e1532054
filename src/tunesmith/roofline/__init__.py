"""What this machine can do at most: rates of matrix products and of memory, measured.

    measure(device) ──> Roofline ──keep / kept──> a file of the cache, by machine

It knows no model, no run and no cache folder of Tunesmith's; those who ask give the folder.
"""
