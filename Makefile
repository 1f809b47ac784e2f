# Two commands: `make run` and `make test`. The rest is for those who change the code.
.PHONY: proto
PY := .venv/bin/python

proto: ## regenerate visavis/v1 from proto/
	$(PY) -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. proto/visavis/v1/*.proto
