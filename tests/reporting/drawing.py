"""What tests look for in a figure."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg


def drawn(figure):
    """The figure, drawn as the report draws it."""
    figure.savefig(io.BytesIO(), dpi=40)
    assert figure.get_size_inches()[0] <= 10.5
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def extents(figure, axes):
    """The boxes, in pixels, of the texts in some axes."""
    figure.set_dpi(160)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for each in axes for text in each.texts]
