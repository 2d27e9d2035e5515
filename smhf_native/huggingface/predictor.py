"""``HuggingFacePredictor``: predictions from an endpoint by name, in both modes.

Behaviour follows SDK v2 (facts: its public documentation and captured calls).
"""

from __future__ import annotations

from typing import Any

from smhf_native.deserializers import BytesDeserializer, JSONDeserializer
from smhf_native.serializers import IdentitySerializer, JSONSerializer
from smhf_native.session import Session, default_session

__all__ = ["HuggingFacePredictor", "Predictor"]


class Predictor:
    """Requests to one endpoint.

    Parameters
    ----------
    endpoint_name : str
    sagemaker_session : Session, optional
        Its mode decides where the endpoint is looked for. Default: a session in the default mode.
    serializer, deserializer : object, optional
        From data to request body, from answer to data. Default: bytes as they are.
    component_name : str, optional
        Inference component (AWS mode).
    """

    def __init__(
        self,
        endpoint_name: str,
        sagemaker_session: Session | None = None,
        serializer: Any = None,
        deserializer: Any = None,
        component_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs:
            raise TypeError(f"{type(self).__name__}: unknown argument {sorted(kwargs)[0]!r}")
        self.endpoint_name = endpoint_name
        self.sagemaker_session = default_session(sagemaker_session)
        self.serializer = serializer if serializer is not None else IdentitySerializer()
        self.deserializer = deserializer if deserializer is not None else BytesDeserializer()
        self.component_name = component_name

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {{'endpoint_name': {self.endpoint_name!r}}}"

    @property
    def content_type(self) -> str:
        """Content type of requests, from the serializer."""
        return str(self.serializer.CONTENT_TYPE)

    @property
    def accept(self) -> tuple[str, ...]:
        """Content types of answers, from the deserializer."""
        return tuple(self.deserializer.ACCEPT)

    def predict(
        self,
        data: Any,
        initial_args: dict[str, Any] | None = None,
        target_model: str | None = None,
        target_variant: str | None = None,
        inference_id: str | None = None,
        custom_attributes: str | None = None,
        component_name: str | None = None,
    ) -> Any:
        """Return the endpoint's answer for ``data``.

        Parameters
        ----------
        data : object
            For a text classifier: ``{"inputs": text or list of texts, "parameters": {...}}``.
        initial_args : dict, optional
            Further arguments of InvokeEndpoint; they win over what is made here.
        target_model, target_variant, inference_id, custom_attributes, component_name : str, optional
            Arguments of InvokeEndpoint.

        Raises
        ------
        ValueError
            ``data`` cannot be sent, e.g. a NaN where a text should be.
        EndpointNotFoundError, EndpointError
            Local mode: no such endpoint, or it answered with an error. AWS mode raises botocore's
            ClientError.
        """
        arguments = self._arguments(
            data, initial_args, target_model, target_variant, inference_id, custom_attributes, component_name
        )
        answer = self.sagemaker_session.sagemaker_runtime_client.invoke_endpoint(**arguments)
        content_type = answer.get("ContentType", "application/octet-stream")
        return self.deserializer.deserialize(answer["Body"], content_type)

    def _arguments(
        self,
        data: Any,
        initial_args: dict[str, Any] | None,
        target_model: str | None,
        target_variant: str | None,
        inference_id: str | None,
        custom_attributes: str | None,
        component_name: str | None,
    ) -> dict[str, Any]:
        arguments = dict(initial_args or {})
        arguments.setdefault("EndpointName", self.endpoint_name)
        arguments.setdefault("ContentType", self.content_type)
        arguments.setdefault("Accept", ", ".join(self.accept))
        for key, value in (
            ("TargetModel", target_model),
            ("TargetVariant", target_variant),
            ("InferenceId", inference_id),
            ("CustomAttributes", custom_attributes),
            ("InferenceComponentName", component_name or self.component_name),
        ):
            if value is not None:
                arguments[key] = value
        arguments["Body"] = self.serializer.serialize(data)
        return arguments

    def predict_stream(self, *_: Any, **__: Any) -> Any:
        """Streamed answers: not there yet; raises."""
        raise NotImplementedError(f"{type(self).__name__}.predict_stream is not part of smhf_native yet")

    def update_endpoint(self, *_: Any, **__: Any) -> Any:
        """Change a live endpoint: not there yet; raises."""
        raise NotImplementedError(
            f"{type(self).__name__}.update_endpoint is not part of smhf_native yet: delete the endpoint and "
            "deploy again"
        )

    def delete_endpoint(self, delete_endpoint_config: bool = True) -> None:
        """Delete the endpoint and, in AWS mode by default, its configuration.

        Raises
        ------
        EndpointNotFoundError
            Local mode: there is none of this name.
        """
        session = self.sagemaker_session
        if not session.is_local and delete_endpoint_config:
            session.delete_endpoint_config(self._describe()["EndpointConfigName"])
        session.delete_endpoint(self.endpoint_name)

    def delete_model(self) -> None:
        """Delete the models behind the endpoint (local mode keeps none: nothing happens).

        Call it before :meth:`delete_endpoint`.
        """
        session = self.sagemaker_session
        if session.is_local:
            return
        config = session.sagemaker_client.describe_endpoint_config(
            EndpointConfigName=self._describe()["EndpointConfigName"]
        )
        for variant in config["ProductionVariants"]:
            session.delete_model(variant["ModelName"])

    def _describe(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.sagemaker_session.sagemaker_client.describe_endpoint(
            EndpointName=self.endpoint_name
        )
        return answer


class HuggingFacePredictor(Predictor):
    """Predictions from a Hugging Face endpoint: JSON in, JSON out.

    Parameters
    ----------
    endpoint_name, sagemaker_session, serializer, deserializer, component_name
        See :class:`Predictor`.

    Examples
    --------
    >>> HuggingFacePredictor("my-endpoint").predict({"inputs": "Lovely."})  # doctest: +SKIP
    [{'label': 'LABEL_4', 'score': 0.93}]
    """

    def __init__(
        self,
        endpoint_name: str,
        sagemaker_session: Session | None = None,
        serializer: Any = None,
        deserializer: Any = None,
        component_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            endpoint_name,
            sagemaker_session,
            serializer if serializer is not None else JSONSerializer(),
            deserializer if deserializer is not None else JSONDeserializer(),
            component_name,
            **kwargs,
        )
