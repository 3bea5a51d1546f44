"""`insights(models, data)`: what is looked at, and the three ways to look: a page, a notebook, a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import FileError, MissingExtra, OptionError
from ..task import Kind

if TYPE_CHECKING:
    from .server import Serving
    from .session import Session

__all__ = ["Insights", "insights"]


def insights(
    models: Any,
    data: Any,
    labels: Sequence[Any] | None = None,
    *,
    classes: Sequence[str] = (),
    kind: Kind | None = None,
    exclusive: bool = True,
    scores: Literal["logits", "probabilities"] | None = None,
    names: Sequence[str] = (),
    prepare: Callable[[Any], Any] | None = None,
    title: str = "",
    most: int = 256,
    seconds: float = 600,
    memory: int = 512 * 2**20,
) -> Insights:
    """Look at many predictions of one or several models: the page lists, filters, compares and explains them.

    Nothing is computed before it is looked at; predictions come in batches, explanations one by one from a queue.

    Args:
        models: a module, a function of tensors or a `pellucid.Task`; or several, in a list or a mapping from names. Beside the results
            of a run models may be None: what is stored is looked at, and nothing is computed.
        data: examples, or pairs `(example, label)`: anything with `len()` and `[i]`, or an iterable. A bare model's examples are
            tensors or arrays without a batch dimension (a tuple for several inputs), pictures, or a `pellucid.Sample`. Or the
            results of a run (`pellucid.run`, `pellucid.scale.open`), see `Results.insights`.
        labels: the examples' labels, where data holds none: numbers of classes, their names, or measured values. With
            `exclusive=False` lists of classes, or arrays with 0 or 1 for each class.
        classes: the classes' names, in the order of the output; a task has its own. Of a model with one output two names make a
            classifier: the output is the score of the second.
        exclusive: False: an example may have several classes or none, and each has a probability of its own (sigmoid, not softmax);
            what has at least 0.5 is predicted.
        scores: what the model gives; None: probabilities where exclusive classes add up to one, or where the last module is a
            `Sigmoid`, else logits.
        kind: image, table, text, series or tensor; found from the shape if not said.
        names: of the columns of a table.
        prepare: from an example to a `pellucid.Sample`, in place of the task's.
        title: of the page.
        most, seconds, memory: limits: requests that wait, seconds of one, bytes of explanations that are kept.

    Raises:
        OptionError: a model that is none. InputError: data that cannot be read.

    >>> import torch
    >>> looked = insights(torch.nn.Linear(4, 3), torch.randn(10, 4), labels=[0] * 10)
    >>> looked
    Insights(1 model, 10 examples): show it in a notebook, .serve() a page, or .export("view.html")
    >>> looked.close()
    """
    # Here, so that `import pellucid` does not bring what draws.
    from ..scale.results import Results
    from .examples import Examples
    from .session import Session
    from .stored import StoredExamples, subjects_of_run
    from .subject import subjects_of

    if scores not in (None, "logits", "probabilities"):
        raise OptionError(f'scores is {scores!r}; give "logits", "probabilities", or None')
    run = data if isinstance(data, StoredExamples) else StoredExamples(data, None, classes) if isinstance(data, Results) else None
    if run is None:
        subjects = subjects_of(models, classes, kind, names, prepare)
    else:
        subjects = subjects_of_run(run, models, run.classes, kind, names, prepare)
        title = title or run.title
    subjects = tuple(replace(s, exclusive=exclusive, scores=scores) for s in subjects)
    examples = Examples(data if run is None else run, labels, subjects[0].classes, exclusive)
    return Insights(Session(subjects, examples, title, most, seconds, memory))


class Insights:
    """Models and examples to look at; `session` answers what is asked about them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._widget: Any = None
        self._servings: list[Serving] = []

    def serve(
        self, host: str = "127.0.0.1", port: int = 0, *, wait: bool = False, expose: bool = False, open_browser: bool = False
    ) -> Serving:
        """Serve the page; `.url` of what comes back holds the key to it.

        Args:
            host: the address to listen at; another than this machine's own needs `expose=True`.
            port: 0 finds a free one.
            wait: until Ctrl-C.
            expose: let other machines reach it. Whoever has the link can use the model; the link is not encrypted.
            open_browser: show the page.

        Raises:
            OptionError: an address of other machines without `expose`. MissingExtra: starlette or uvicorn is not installed.
        """
        from .server import serve

        serving = serve(self.session, host, port, expose)
        self._servings.append(serving)
        if open_browser:
            serving.show()
        if wait:
            serving.wait()
        return serving

    def widget(self) -> Any:
        """The widget that notebooks show (anywidget).

        Raises:
            MissingExtra: anywidget is not installed.
        """
        from .widget import widget_of

        if self._widget is None:
            self._widget = widget_of(self.session)
        return self._widget

    def export(self, path: str | Path, *, examples: int = 24, **view: Any) -> Path:
        """Write one HTML file that needs no server and no network: the list, and explanations of its first examples.

        Args:
            path: the file.
            examples: how many are explained.
            view: which examples and how: `verdict`, `search`, `predicted`, `labels`, `sort`, `descending`, as on the page, and
                `columns=[{"method": "saliency"}, ...]` for other methods or models than integrated gradients of the first.

        Raises:
            FileError: the file cannot be written.
        """
        from .export import export

        if not Path(path).parent.is_dir():  # before much is explained
            raise FileError(f"cannot write {str(path)!r}: its folder does not exist; name a file in one that does")
        document = export(self.session, {"examples": examples, **view})
        try:
            Path(path).write_text(document, encoding="utf-8")
        except OSError as error:
            raise FileError(f"cannot write {str(path)!r}: {error.strerror}; name a file in a folder that exists") from error
        return Path(path)

    def close(self) -> None:
        """Stop the server and all work."""
        while self._servings:
            self._servings.pop().stop()
        self.session.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        try:
            return self.widget()._repr_mimebundle_(**options)
        except MissingExtra as error:
            return {"text/plain": f"{self!r}\n({error})"}

    def __repr__(self) -> str:
        models, examples = len(self.session.subjects), len(self.session.catalogue.rows)
        counted = f"{models} model{'s' * (models != 1)}, {examples:,}{'' if self.session.examples.ended else '+'} examples"
        return f'Insights({counted}): show it in a notebook, .serve() a page, or .export("view.html")'
