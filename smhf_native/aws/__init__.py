"""SageMaker through boto3: payloads that need no network, and the client of AWS mode."""
