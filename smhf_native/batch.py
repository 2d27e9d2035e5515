"""One picklable callable for batch inference in Ray Data, Spark, Dask or a process pool.

    predict = Classifier("model_dir", text_column="text")
    table = predict({"text": ["good", "bad"]})          # dict of arrays in, dict of arrays out
    frame = predict(frame)                               # DataFrame in, DataFrame out

The model is opened once per process, on first use; pickling carries paths and options only.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Classifier"]


class Classifier:
    """Add ``label`` and ``score`` columns to batches of texts.

    Parameters
    ----------
    model
        Folder of a saved model.
    text_column
        Column that holds the texts.
    max_length
        Tokens after which texts are cut (default: the model's maximum).
    """

    def __init__(self, model: str, text_column: str = "text", max_length: int | None = None) -> None:
        self.model = str(model)
        self.text_column = text_column
        self.max_length = max_length
        self._pipeline: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pipeline": None}

    def _open(self) -> Any:
        if self._pipeline is None:
            from smhf_native.pipelines import pipeline

            self._pipeline = pipeline("text-classification", model=self.model)
        return self._pipeline

    def __call__(self, batch: Any) -> Any:
        """Classify one batch: a dict of columns, a DataFrame, or an Arrow table.

        Returns
        -------
        The same kind of object with the columns ``label`` (str) and ``score`` (float64) added.

        Raises
        ------
        KeyError
            The text column is missing; the sentence lists the columns that are there.
        """
        import numpy as np

        columns = list(batch.column_names) if hasattr(batch, "column_names") else list(batch)
        if self.text_column not in columns:
            raise KeyError(f"column {self.text_column!r} not found; the batch has {columns}")
        texts = batch[self.text_column]
        texts = texts.to_pylist() if hasattr(texts, "to_pylist") else [str(text) for text in texts]
        options = {} if self.max_length is None else {"max_length": self.max_length}
        results = self._open()(texts, **options) if texts else []
        labels = np.array([result["label"] for result in results], dtype=object)
        scores = np.array([result["score"] for result in results], dtype=np.float64)
        if isinstance(batch, dict):
            return {**batch, "label": labels, "score": scores}
        if hasattr(batch, "append_column"):
            table = batch.append_column("label", [labels.tolist()])
            return table.append_column("score", [scores.tolist()])
        return batch.assign(label=labels, score=scores)
