"""What Streamlit runs, anew for every change of a control."""

from calibration.explore.page import show

show()
