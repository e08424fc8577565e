"""Inspection of figures in tests."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg


def drawn(figure):
    """Renders a figure and checks its width, as the report does."""
    figure.savefig(io.BytesIO(), dpi=40)
    assert figure.get_size_inches()[0] <= 10.5
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def extents(figure, axes):
    """Returns the extents of all texts in some axes, in pixels."""
    figure.set_dpi(160)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer) for each in axes for text in each.texts]
