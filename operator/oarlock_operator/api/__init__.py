"""The custom resources as models; the CustomResourceDefinition is generated from them (`oarlock_operator.crd`)."""
