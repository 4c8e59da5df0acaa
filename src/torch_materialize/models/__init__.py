"""What can be compared: built-in models by name, and users' own by ``file.py:function``."""
