"""Interactive figures: controls, a picture that follows them, and what it shows in words.

They need core ipywidgets only, and work alike in JupyterLab, VS Code and Colab: the picture is a
JPEG, drawn by the kernel. A click on it reaches the kernel through a text field that is not shown;
whatever a click does, sliders and buttons do, too, and so the keyboard. A mistake in a callback
raises also where nobody looks.
"""

from corrlib.widgets.attention import attention_explorer
from corrlib.widgets.film import Scene, player
from corrlib.widgets.pictures import ClickablePicture, explore, frame_slider, slider_of
from corrlib.widgets.points import point_explorer
from corrlib.widgets.propagation import propagation_explorer

__all__ = [
    "ClickablePicture",
    "Scene",
    "attention_explorer",
    "explore",
    "frame_slider",
    "player",
    "point_explorer",
    "propagation_explorer",
    "slider_of",
]
