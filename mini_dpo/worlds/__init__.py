"""Worlds with a known reward, one file each. What a world is: `world`. By its name: `finding`.

`shop` is the toy shop, whose files are in data/.
"""
