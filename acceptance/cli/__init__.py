"""The commands measure-acceptance and bench-decode, one file each."""
