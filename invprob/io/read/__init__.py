"""Observations from FITS files as astronomers have them."""
