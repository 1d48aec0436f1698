"""The tutorial: ten chapters, their pictures and their exercises. Begin with tutorials/README.md."""
