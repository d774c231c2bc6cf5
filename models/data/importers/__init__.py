"""Importers: public raw files in, the tables of a dataset folder out; every row that cannot be read is reported."""
